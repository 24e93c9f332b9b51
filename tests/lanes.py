"""The short lane, which the README's command runs, and the long lane.

    python -m pytest -n 2                the short lane: minutes
    python -m pytest -n 2 --lane long    what the short one left out
    python -m pytest -n 2 --lane all     both

XLA takes nearly all of the time of this suite, a program for each case. For the tests
below, whose cases are many rows of one kind, the short lane runs one case in so many,
the others run in the long lane. A test that is one long case by itself has 0 here.
"""

import pytest

ONE_IN = {
    "base/test_norms.py::test_a_norm_is_right_whatever_the_size": 3,
    "base/test_norms.py::test_the_derivative_of_a_norm_is_the_direction": 2,
    "base/test_patterns.py::test_patterns_choose_by_path": 3,
    "base/test_reproducible.py::test_a_norm_is_within_its_bound_of_the_exact_one": 3,
    "base/test_reproducible.py::test_derivatives": 0,
    "base/test_reproducible.py::test_the_bits_do_not_depend_on_the_order": 3,
    "base/test_reproducible.py::test_transformations_and_strict_promotion": 0,
    "base/test_reproducible.py::test_zeros_and_what_is_not_finite": 3,
    "base/test_values.py::test_masks_survive_inject_hyperparams": 3,
    "campaigns/test_short.py::test_the_short_form_holds": 18,
    "checkpoint/test_changes.py::"
    "test_a_change_is_carried_out_and_reported_or_refused": 22,
    "checkpoint/test_custom.py::test_forms_are_cast_when_asked": 3,
    "checkpoint/test_digests.py::test_every_bit_of_every_dtype_counts": 3,
    "checkpoint/test_digests.py::test_no_flip_of_a_bit_in_orbaxs_files_is_silent": 40,
    "checkpoint/test_round_trip.py::test_a_run_goes_on_bit_for_bit_in_a_new_process": 2,
    "checkpoint/test_round_trip.py::test_a_state_inside_a_wrapper_is_found": 6,
    "checkpoint/test_round_trip.py::test_every_field_and_dtype_survives": 2,
    "checkpoint/test_round_trip.py::test_every_transformation_survives_and_goes_on": 24,
    "checkpoint/test_round_trip.py::test_meshes_may_change_between_save_and_restore": 0,
    "cli/test_demo.py::test_a_loss_that_is_not_finite_is_told_and_fails": 0,
    "cli/test_demo.py::test_defaults_reach_97_percent_and_write_everything": 0,
    "cli/test_demo.py::test_plots_stand_values_that_are_not_finite": 3,
    "cli/test_demo.py::test_same_seed_gives_the_same_bits_in_another_process": 0,
    "cli/test_demo_parts.py::test_a_grid_has_the_shape_it_was_asked_for": 0,
    "cli/test_demo_parts.py::test_all_parts_are_in_the_summary_and_in_the_report": 0,
    "cli/test_demo_parts.py::test_bfloat16_stalls_in_optax_and_not_in_compact": 0,
    "cli/test_demo_parts.py::test_decoupled_decay_is_tuned_apart_from_the_rate": 0,
    "cli/test_demo_parts.py::test_faults_are_survived_with_the_same_bits": 0,
    "cli/test_demo_parts.py::test_one_epoch_is_killed_before_its_checkpoint": 0,
    "cli/test_demo_parts.py::test_the_transformer_learns_the_text": 0,
    "cli/test_demo_report.py::test_a_browser_shows_it": 0,
    "commit/test_changed_parameters.py::test_a_change_between_two_steps_is_kept": 5,
    "commit/test_commit.py::test_a_bad_gradient_leaves_parameter_and_residual": 2,
    "commit/test_commit.py::test_in_place": 2,
    "commit/test_commit.py::test_the_mean_of_many_small_updates_is_right": 0,
    "commit/test_commit.py::test_updates_land_on_what_step_writes": 6,
    "commit/test_commit.py::test_windows_groups_averages_and_no_gradient": 2,
    "commit/test_derivatives.py::test_they_are_those_of_float32": 3,
    "control/test_calls.py::test_another_configuration_is_noticed": 3,
    "control/test_calls.py::test_every_combination": 32,
    "control/test_calls.py::test_every_sequence": 0,
    "control/test_nesting.py::test_every_nesting_is_the_same_transformation": 4,
    "control/test_refusals.py::test_a_micro_batch_of_weight_zero_is_no_fault": 5,
    "dialects/peer_cases/test_optax.py::test_optax_dtypes_are_preserved": 3,
    "dialects/peer_cases/test_optax.py::test_optax_finds_the_minimum": 3,
    "dialects/peer_cases/test_optax.py::test_optax_inside_multi_steps": 2,
    "dialects/peer_cases/test_timm_and_optimi.py::test_timm_and_optimi_basic_cases": 6,
    "dialects/peer_cases/test_timm_and_optimi.py::test_timm_and_optimi_rosenbrock": 2,
    "dialects/peer_cases/test_torch.py::test_torch_goes_the_right_way": 3,
    "dialects/test_arrays.py::test_a_rate_of_torch_may_be_an_array_of_one_element": 2,
    "dialects/test_callables.py::"
    "test_a_callable_rate_is_asked_at_every_step_under_jit": 2,
    "dialects/test_calls.py::test_a_call_is_the_call_of_adamw_that_it_claims": 12,
    "dialects/test_counting.py::test_schedules_count_steps_or_gradient_calls": 2,
    "dialects/test_live.py::test_the_numbers_of_the_installed_peer": 0,
    "dialects/test_loss_scales.py::test_the_scales_of_keras": 3,
    "dialects/test_param_groups.py::"
    "test_betas_and_an_array_of_one_element_in_a_group": 8,
    "dialects/test_param_groups.py::test_param_groups": 2,
    "dialects/test_recorded.py::test_a_row_has_the_peers_numbers": 84,
    "dialects/test_recorded.py::test_a_row_that_differs_by_design_does": 8,
    "dialects/test_restarts.py::"
    "test_restarts_start_where_the_period_before_has_ended": 0,
    "dialects/test_restarts.py::test_warm_restarts_are_the_formula": 8,
    "dialects/test_values.py::test_a_second_call_traces_nothing": 8,
    "dialects/test_values.py::"
    "test_a_transformation_works_in_scan_under_vmap_and_in_place": 24,
    "dialects/test_values.py::test_equal_ones_share_the_compiled_step": 12,
    "foreign/test_optax.py::test_a_wrapper_trains_the_same_numbers": 12,
    "house/test_benchmarks.py::test_a_guard_that_is_missing_is_noticed": 2,
    "house/test_benchmarks.py::test_every_configuration_is_measured_as_planned": 0,
    "house/test_benchmarks.py::test_less_or_other_work_fails_the_check": 2,
    "house/test_compare.py::test_a_copy_has_no_differences": 0,
    "house/test_compare.py::test_rows_of_one_checkout_alone_are_differences": 0,
    "house/test_compare.py::test_what_is_planted_is_noticed": 0,
    "house/test_examples.py::test_a_killed_training_ends_in_the_same_bits": 0,
    "house/test_examples.py::test_eight_devices_learn_with_a_divided_state": 0,
    "house/test_face.py::"
    "test_types_are_shipped_and_a_strict_checker_takes_a_users_lines": 0,
    "house/test_planted_faults.py::test_a_sample_is_noticed": 2,
    "house/test_planted_faults.py::test_only_a_failing_assertion_counts_as_noticing": 0,
    "house/test_studies.py::test_the_study_of_losses_runs": 0,
    "house/test_studies.py::test_the_study_of_variants_runs": 0,
    "house/test_studies.py::test_the_study_of_windows_runs": 0,
    "house/test_studies.py::test_the_times_on_several_devices_are_measured": 0,
    "house/test_studies.py::test_two_implementations_of_one_code": 2,
    "integrations/test_equinox.py::test_equinox_takes_the_plain_step": 6,
    "integrations/test_equinox.py::test_equinox_updates_in_place": 2,
    "integrations/test_flax_linen.py::test_linen_takes_the_plain_step": 6,
    "integrations/test_flax_linen.py::test_linen_updates_in_place": 2,
    "integrations/test_flax_nnx.py::test_nnx_continues_from_what_was_saved": 2,
    "integrations/test_flax_nnx.py::test_nnx_takes_the_plain_step": 6,
    "integrations/test_flax_nnx.py::test_nnx_trains_members_of_an_ensemble": 0,
    "integrations/test_flax_nnx.py::test_nnx_updates_in_place": 3,
    "interchange/test_agreement.py::test_maxima_of_the_other_kind": 2,
    "interchange/test_bounds.py::test_a_small_file_takes_little_memory": 0,
    "interchange/test_command.py::test_from_every_library_to_every_other": 4,
    "interchange/test_files.py::test_thousands_of_variables_in_hdf5": 0,
    "interchange/test_live_optax.py::test_optax": 2,
    "interchange/test_recorded.py::test_ten_more_calls_are_those_of_the_package": 6,
    "interchange/test_shared_arguments.py::"
    "test_a_type_checker_takes_and_refuses_them": 0,
    "interchange/test_there_and_back.py::test_shardings_on_eight_devices": 0,
    "interchange/test_there_and_back.py::test_there_and_back": 4,
    "interchange/test_torch.py::test_numbers_that_pytorch_would_use_otherwise": 3,
    "interchange/test_used_options.py::test_a_number_is_written_or_refused": 2,
    "laws/eight_devices.py::test_a_sharded_step_is_the_unsharded_one": 44,
    "laws/eight_devices.py::test_a_state_is_born_where_it_stays": 12,
    "laws/eight_devices.py::test_explicit_axes_stay_as_they_are": 32,
    "laws/eight_devices.py::test_init_places_buffers_as_parameters": 44,
    "laws/test_bits.py::"
    "test_a_donated_step_is_the_same_and_equal_instances_share_it": 32,
    "laws/test_bits.py::test_a_scan_is_the_same": 32,
    "laws/test_bits.py::test_eager_is_within_ulps_of_the_jitted_update": 32,
    "laws/test_bits.py::test_one_leaf_is_the_same_as_many": 32,
    "laws/test_bits.py::test_sixteen_bit_updates_miss_only_beyond_a_factor_of_two": 2,
    "laws/test_bits.py::test_steps_unrolled_into_one_program_are_the_same": 32,
    "laws/test_bits.py::"
    "test_updates_applied_by_another_program_land_on_what_step_writes": 32,
    "laws/test_bits.py::"
    "test_updates_applied_in_one_program_land_on_what_step_writes": 32,
    "laws/test_bits.py::test_vmap_is_the_same_as_a_loop": 32,
    "laws/test_decay_bits.py::test_a_scan_with_a_rate_that_changes": 5,
    "laws/test_decay_bits.py::test_step_and_update_with_rounded_moments": 5,
    "laws/test_decay_bits.py::test_step_update_vmap_and_leaves": 5,
    "laws/test_donation.py::test_a_donated_train_step_allocates_nothing": 16,
    "laws/test_donation.py::test_a_jitted_step_allocates_nothing": 16,
    "laws/test_donation.py::test_fresh_leaves_share_no_buffer": 16,
    "laws/test_flax.py::test_train_state_applies_what_step_writes": 2,
    "laws/test_guard.py::test_a_guard_that_finds_nothing_changes_no_bit": 2,
    "laws/test_guard.py::test_a_run_with_bad_gradients_is_the_run_without": 6,
    "laws/test_leaves.py::test_a_jitted_step_takes_no_gradient": 4,
    "laws/test_leaves.py::"
    "test_no_gradient_leaves_a_parameter_and_its_buffers_as_they_are": 18,
    "laws/test_leaves.py::test_trees_of_all_kinds_can_be_traced": 32,
    "laws/test_leaves.py::test_updates_can_be_applied_to_trees_of_all_kinds": 3,
    "laws/test_modes.py::test_a_jitted_step_transfers_nothing": 8,
    "laws/test_modes.py::"
    "test_eager_jit_and_scan_are_the_same_where_products_are_not_contracted": 0,
    "laws/test_modes.py::test_every_dtype_can_be_traced": 24,
    "laws/test_modes.py::test_finite_steps_raise_nothing": 66,
    "laws/test_modes.py::test_it_runs_as_elsewhere": 2,
    "laws/test_modes.py::test_no_invariant_of_jax_is_broken": 12,
    "laws/test_modes.py::test_numbers_do_not_depend_on_x64": 4,
    "laws/test_modes.py::test_types_do_not_depend_on_x64": 36,
    "laws/test_optax.py::test_a_given_norm_is_used": 2,
    "laws/test_optax.py::test_adamw_is_the_optax_chain_of_its_atoms": 8,
    "laws/test_optax.py::test_checkify_finds_nothing_in_finite_steps": 4,
    "laws/test_optax.py::test_extra_arguments_are_accepted": 24,
    "laws/test_optax.py::test_gradients_through_an_update_are_finite_at_zero": 16,
    "laws/test_optax.py::test_inject_hyperparams_does_what_arrays_do": 6,
    "laws/test_optax.py::test_numbers_are_the_same_inside_wrappers": 3,
    "laws/test_optax.py::test_types_are_a_fixed_point_inside_wrappers": 32,
    "laws/test_properties.py::"
    "test_the_laws_hold_in_float64_and_without_fused_multiply_adds": 0,
    "laws/test_rounded_moments.py::"
    "test_moments_have_the_same_bits_and_parameters_nearly": 4,
    "laws/test_sharding.py::test_the_laws_of_sharding_hold_on_eight_devices": 2,
    "laws/test_state.py::"
    "test_gradients_of_another_dtype_leave_the_types_as_they_are": 36,
    "laws/test_state.py::test_init_on_shapes_gives_the_types_of_init": 4,
    "laws/test_state.py::test_jitted_init_gives_what_init_gives": 12,
    "laws/test_state.py::test_many_steps_are_traced_and_compiled_once": 4,
    "laws/test_state.py::"
    "test_structure_is_the_same_for_a_number_an_array_and_a_schedule": 3,
    "laws/test_state.py::test_types_are_a_fixed_point_in_eager_mode": 24,
    "laws/test_state.py::test_types_are_a_fixed_point_wherever_a_step_is_traced": 18,
    "laws/test_state.py::test_updates_have_the_types_of_the_parameters": 4,
    "laws/test_state.py::test_weak_types_of_parameters_are_kept": 4,
    "leaf/eight_devices.py::test_a_sharding_that_cuts_blocks_has_no_kernel": 32,
    "leaf/eight_devices.py::test_shards_have_the_bits_of_the_whole_leaf": 120,
    "leaf/eight_devices.py::test_zero1_runs_kernels_of_the_parts_of_its_state": 3,
    "leaf/test_kernels.py::test_many_tiles_give_the_bits_of_the_plain_step": 2,
    "leaf/test_kernels.py::test_the_kernels_of_shards_on_eight_devices": 2,
    "leaf/test_kernels.py::test_which_platforms_have_a_kernel_by_default": 2,
    "leaf/test_pallas.py::test_elsewhere_it_is_the_plain_step": 0,
    "leaf/test_pallas.py::test_it_lowers_for_an_nvidia_gpu": 2,
    "leaf/test_pallas.py::test_kernels_compute_what_the_plain_step_does": 18,
    "leaf/test_pallas.py::test_updates_of_kernels": 18,
    "native/eight_devices.py::test_a_fault_in_the_places_of_random_bits_is_noticed": 0,
    "native/eight_devices.py::test_a_sharding_that_cuts_blocks_is_left_to_xla": 4,
    "native/eight_devices.py::test_each_device_steps_its_part": 24,
    "native/eight_devices.py::test_kernels_run_inside_shard_map": 4,
    "native/eight_devices.py::test_loops_conditions_maps_and_derivatives": 0,
    "native/eight_devices.py::test_the_bits_are_those_of_one_device": 0,
    "native/eight_devices.py::test_zero1_steps_the_parts_of_its_state": 0,
    "native/test_blocks.py::test_a_fault_in_the_source_is_noticed": 3,
    "native/test_blocks.py::test_steps_are_the_same": 8,
    "native/test_blocks.py::test_steps_of_narrow_parameters_are_the_same": 3,
    "native/test_default.py::test_a_compiler_that_fails_is_left_alone": 2,
    "native/test_devices.py::"
    "test_devices_that_wait_for_each_other_do_not_come_to_a_stop": 0,
    "native/test_devices.py::test_eight_devices": 2,
    "native/test_devices.py::test_two_processes": 0,
    "native/test_laws.py::test_a_fault_in_the_source_is_noticed": 2,
    "native/test_laws.py::test_a_step_by_kernels_is_the_step_by_xla": 32,
    "native/test_norm.py::test_a_fault_in_the_source_is_noticed": 2,
    "native/test_operations.py::test_float64": 0,
    "native/test_operations.py::test_floats_of_16_bits": 4,
    "native/test_operations.py::test_integers": 4,
    "native/test_pass.py::test_a_leaf_without_a_kernel_is_refused_or_left_to_xla": 2,
    "native/test_pass.py::test_steps_are_the_same": 4,
    "native/test_pass.py::test_steps_of_narrow_parameters_are_the_same": 8,
    "native/test_sanitizers.py::test_nothing_is_found": 0,
    "native/test_sanitizers.py::test_nothing_is_found_in_blocks": 0,
    "native/test_sanitizers.py::test_nothing_is_found_in_parts": 0,
    "native/test_sanitizers.py::test_nothing_is_found_in_the_norm": 0,
    "native/test_shapes.py::test_it_is_not_run_by_a_kernel_of_another_shape": 3,
    "native/test_shapes.py::test_rules_of_the_library_compute_alike_for_every_shape": 8,
    "reports/test_check_schedules.py::"
    "test_the_first_illegal_value_is_named_with_its_step": 2,
    "reports/test_describe.py::test_every_parameter_has_a_row_with_shape_and_dtype": 2,
    "reports/test_memory_plan.py::"
    "test_a_plan_for_eight_devices_is_what_xla_reports_for_each": 2,
    "reports/test_memory_plan.py::test_a_plan_is_what_xla_reports": 2,
    "reports/test_memory_plan.py::test_no_temporary_has_the_size_of_a_large_leaf": 2,
    "reports/test_plots.py::test_a_file_that_cannot_be_written_is_refused_in_words": 2,
    "reports/test_plots.py::test_a_plot_is_drawn": 6,
    "rules/test_accuracy.py::test_one_float32_step_is_within_eight_ulps": 4,
    "rules/test_accuracy.py::"
    "test_the_first_steps_of_a_slow_second_moment_have_their_full_size": 3,
    "rules/test_combinations.py::test_a_row_of_options_follows_the_oracle": 64,
    "rules/test_derivatives.py::test_betas_of_zero": 2,
    "rules/test_epsilon.py::"
    "test_steps_with_and_without_the_selection_have_equal_bits": 2,
    "rules/test_extending.py::test_lookahead_is_that_of_optax": 16,
    "rules/test_field_faults.py::test_n10_the_counter_is_int32_and_passes_256": 2,
    "rules/test_field_faults.py::"
    "test_n15_the_derivative_of_an_update_at_a_zero_gradient_is_finite": 6,
    "rules/test_field_faults.py::test_n1_a_zero_gradient_moves_nothing": 12,
    "rules/test_field_faults.py::"
    "test_n4_a_second_moment_that_is_flushed_to_zero_leaves_no_eps_alone": 4,
    "rules/test_field_faults.py::test_n9_counters_saturate": 2,
    "rules/test_knobs.py::test_a_knob_away_from_its_default": 24,
    "rules/test_knobs.py::test_other_dtypes_with_everything_on": 4,
    "rules/test_order.py::test_right_orders_are_accepted_and_step": 3,
    "rules/test_schedule_free.py::test_each_step_is_that_of_float64": 3,
    "schedules/test_horizons.py::"
    "test_a_schedule_is_constant_from_its_horizon_on_and_not_before": 2,
    "schedules/test_horizons.py::test_steps_past_the_horizon_are_counted": 2,
    "schedules/test_numbers.py::test_a_compiled_schedule_ends_exactly": 16,
    "schedules/test_numbers.py::test_numbers_are_those_of_optax": 3,
    "schedules/test_numbers.py::test_numbers_are_those_of_optax_in_float64": 3,
    "schedules/test_numbers.py::test_strict_promotion_changes_nothing": 3,
    "schedules/test_values.py::"
    "test_a_transformation_that_is_built_again_is_not_compiled_again": 12,
    "schedules/test_values.py::test_copies_are_equal": 3,
    "sharding/layouts.py::test_a_restore_into_shapes_or_a_layout_of_ones_own": 6,
    "sharding/layouts.py::test_a_state_made_with_it_stays_there": 48,
    "sharding/layouts.py::test_an_axis_divides_the_state_further": 8,
    "sharding/layouts.py::test_digests_are_those_of_every_layout": 4,
    "sharding/layouts.py::test_orbax_restores_on_another_topology": 4,
    "sharding/layouts.py::test_scales_lie_over_the_axes_that_divide_them": 3,
    "sharding/manual.py::test_a_norm_of_a_part_is_refused": 8,
    "sharding/manual.py::test_parts_step_as_the_whole": 30,
    "sharding/offload.py::test_a_step_has_the_bits_of_a_step_on_the_device": 12,
    "sharding/offload.py::test_eager_steps_updates_and_flush": 6,
    "sharding/offload.py::test_vmap_scan_and_donation": 4,
    "sharding/offload.py::test_with_zero1_the_parts_lie_in_the_host": 4,
    "sharding/reproducible.py::"
    "test_a_divided_step_is_the_replicated_one_bit_for_bit": 24,
    "sharding/reproducible.py::test_every_mesh_has_the_bits_of_one_device": 6,
    "sharding/reproducible.py::test_explicit_axes": 6,
    "sharding/reproducible.py::"
    "test_parts_inside_shard_map_have_the_bits_of_the_whole": 4,
    "sharding/test_lanes.py::test_layouts_on_eight_devices": 10,
    "sharding/test_processes.py::test_a_killed_training_goes_on_with_the_same_bits": 0,
    "sharding/zero1.py::test_a_divided_step_is_the_replicated_one_bit_for_bit": 96,
    "sharding/zero1.py::test_each_device_has_an_eighth_of_the_state": 16,
    "sharding/zero1.py::test_each_parameter_is_gathered_once_and_nothing_else": 12,
    "sharding/zero1.py::test_init_under_jit_eager_steps_updates_and_flush": 0,
    "sharding/zero1.py::test_with_a_norm_only_the_order_of_its_sum_differs": 6,
    "store/test_block_axis.py::"
    "test_a_checkpoint_keeps_the_axis_with_which_it_was_made": 0,
    "store/test_block_axis.py::test_an_axis_is_the_last_one_of_the_transposed_leaf": 2,
    "store/test_block_axis.py::test_dequantize_reads_blocks_along_any_axis": 3,
    "store/test_block_code.py::test_a_number_is_within_its_bound": 2,
    "store/test_composition.py::test_a_scan_and_a_vmap_and_in_place": 0,
    "store/test_composition.py::test_without_jit": 0,
    "store/test_custom.py::test_a_refused_step_leaves_the_buffers_to_the_bit": 3,
    "store/test_export.py::test_an_exported_step_computes_what_the_step_does": 2,
    "store/test_sharding.py::test_a_sharded_step_is_the_unsharded_one": 0,
    "store/test_training.py::"
    "test_an_average_in_16_bits_follows_for_ten_thousand_steps": 0,
    "store/test_training.py::test_every_shape_trains_as_bounded": 0,
    "store/test_training.py::"
    "test_ten_thousand_steps_freeze_nothing_and_lean_nowhere": 0,
    "store/test_training.py::test_the_largest_update_stays_bounded": 8,
    "store/test_values.py::test_describe_tells_the_forms_and_the_bytes": 2,
    "support/test_oracle.py::test_equals_optax": 3,
    "transforms/test_adjustable.py::"
    "test_a_number_that_is_set_is_the_number_that_is_given": 8,
    "transforms/test_freeze.py::test_an_update_of_a_frozen_parameter_changes_no_bit": 8,
    "transforms/test_freeze.py::test_everything_frozen": 8,
    "transforms/test_freeze.py::"
    "test_the_others_train_as_if_the_frozen_were_not_there": 8,
    "transforms/test_freeze.py::test_what_its_gradient_is_has_no_effect": 8,
    "transforms/test_gradient_release.py::"
    "test_a_released_step_has_the_bits_of_the_step": 18,
    "transforms/test_programs.py::"
    "test_a_sweep_keeps_the_programs_of_its_last_transformations": 2,
    "transforms/test_reproducible_norms.py::"
    "test_a_step_allocates_no_more_than_the_plain_one": 4,
    "transforms/test_reproducible_norms.py::"
    "test_the_step_is_the_plain_one_to_within_rounding": 4,
    "tuning/test_sweep.py::test_members_are_divided_over_eight_devices": 0,
    "tuning/test_sweep.py::test_what_cannot_be_swept_is_said": 3,
}
"""By file and function: one case in so many is in the short lane; 0: none."""

COLLECTED = pytest.StashKey[list[pytest.Item]]()
"""Where pytest's config holds all tests, those of the other lane too."""


def is_short(items: list[pytest.Item]) -> list[bool]:
    """For each test whether it is in the short lane, by its place among its cases."""
    seen: dict[str, int] = {}
    short = []
    for item in items:
        name = key(item)
        number = seen.get(name, 0)
        seen[name] = number + 1
        share = ONE_IN.get(name, 1)
        short.append(share > 0 and number % share == 0)
    return short


def key(item: pytest.Item) -> str:
    """The file and function of a test, as the table has it."""
    path, _, name = item.nodeid.removeprefix("tests/").partition("::")
    return f"{path}::{name.partition('[')[0]}"
