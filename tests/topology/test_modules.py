"""The accounting of bytes on stored modules: needs neither libtpu nor CUDA."""

from pathlib import Path

import pytest

from benchmarks.topology import modules, traffic

STORED = Path(__file__).parent / "modules"
NUMBERS = 8192 * 8192


def read(name, **changes):
    text = (STORED / f"{name}.txt").read_text()
    for old, new in changes.values():
        assert text.count(old) == 1
        text = text.replace(old, new)
    return traffic.of(modules.parse(text))


@pytest.mark.parametrize(
    ("name", "devices", "fusions", "loops"),
    [
        ("v5e-2x2-clip-jax-0.10.2", 4, 2, 0),
        ("h100-1x1x8-clip-jax-0.12.0.1", 8, 10, 0),
        ("v5e-1x1-guard-jax-0.12.0.1", 1, 3, 1),
    ],
)
def test_a_clip_or_a_guard_moves_32_bytes(name, devices, fusions, loops):
    found = read(name)
    share = NUMBERS / devices
    assert found.least / share == pytest.approx(32, abs=0.01)
    assert found.most == found.least
    assert found.in_loops / share == pytest.approx(28 * loops, abs=0.01)
    assert (found.fusions, found.loops, found.branches) == (fusions, loops, 0)
    assert found.copies == 0
    # The sum of the squares and the sum of the scaled squares, in one reduction.
    sharded = devices > 1
    assert found.collectives == ({"all-reduce": 1} if sharded else {})
    assert found.collective_bytes == ({"all-reduce": 8} if sharded else {})


def test_a_planted_copy_is_noticed():
    name = "h100-1x1x8-clip-jax-0.12.0.1"
    array = "f32[1024,8192]{1,0}"
    text = (STORED / f"{name}.txt").read_text()
    entry = modules.parse(text)
    last = entry.computations[entry.entry][-2].name
    line = next(x for x in text.splitlines() if x.startswith(f"  %{last} = "))
    copied = line + f"\n  %planted = {array} copy(%{last})"
    found = read(name, plant=(line, copied))
    assert found.copies == 1
    assert found.least / (NUMBERS / 8) == pytest.approx(40, abs=0.01)


BRANCHES = """\
HloModule toy

%cheap (a: f32[8,128]) -> f32[8,128] {
  ROOT %a = f32[8,128]{1,0} parameter(0)
}

%dear (b: f32[8,128]) -> f32[8,128] {
  %b = f32[8,128]{1,0} parameter(0)
  ROOT %n = f32[8,128]{1,0} negate(%b)
}

ENTRY %main (p: f32[8,128], q: pred[]) -> f32[8,128] {
  %p = f32[8,128]{1,0} parameter(0)
  %q = pred[] parameter(1)
  ROOT %c = f32[8,128]{1,0} conditional(%q, %p, %p), CALLED
}
"""


@pytest.mark.parametrize(
    "called",
    [
        "true_computation=%cheap, false_computation=%dear",
        "branch_computations={%dear, %cheap}",
    ],
)
def test_the_cheapest_and_the_dearest_branch(called):
    found = traffic.of(modules.parse(BRANCHES.replace("CALLED", called)))
    assert (found.least, found.most, found.branches) == (0, 2 * 4096, 1)


TPU = """\
HloModule toy

%scatter (x: bf16[64,128]) -> bf16[16,128] {
  %x = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  %r = bf16[64,128]{1,0:T(8,128)(2,1)} all-reduce(%x), channel_id=9, to_apply=%add
  ROOT %s = bf16[16,128]{1,0:T(8,128)(2,1)} slice(%r), slice={[0:16], [0:128]}
}

ENTRY %main (p: f32[3,100], g: bf16[64,128]) -> f32[3,100] {
  %p = f32[3,100]{1,0:T(8,128)} parameter(0)
  %g = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(1)
  %copy-start = (f32[3,100]{1,0:T(8,128)S(1)}, f32[3,100]{1,0:T(8,128)}, u32[]{:S(2)}) \
copy-start(%p)
  %copy-done = f32[3,100]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  %part-start = ((f32[3,100]{1,0:T(8,128)}), f32[1,100]{1,0:T(8,128)S(1)}, s32[]) \
slice-start(%p), slice={[0:1], [0:100]}
  %gather-start = (bf16[64,128]{1,0}, bf16[256,128]{1,0}) all-gather-start(%g), \
channel_id=3, dimensions={0}
  %gather-done = bf16[256,128]{1,0} all-gather-done(%gather-start), channel_id=3
  %again = bf16[256,128]{1,0} all-gather(%g), channel_id=3, dimensions={0}
  %fused = bf16[16,128]{1,0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %n = f32[3,100]{1,0:T(8,128)} negate(%copy-done), metadata={op_name="f32[9,9]"}
}
"""


def test_tiles_are_padded_and_cores_have_memory_of_their_own():
    text = TPU.replace("%scatter (", "%all-reduce-scatter.1 (")
    found = traffic.of(modules.parse(text))
    tile = 8 * 128 * 4  # of (3, 100), and of the row (1, 100)
    # Read for the copy, read for the part, and the negative written.
    assert found.least == 3 * tile
    assert found.copies == 0
    # A channel is one collective; a reduce-scatter is fused around an all-reduce.
    assert found.collectives == {"all-gather": 1, "reduce-scatter": 1}
    assert found.collective_bytes == {
        "all-gather": 256 * 128 * 2,
        "reduce-scatter": 16 * 128 * 2,
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("HloModule empty\n", "no ENTRY computation"),
        ("ENTRY %main () -> f32[] {\n  nonsense\n}\n", "no instruction: 'nonsense'"),
        ("ENTRY %main () -> f32[] {\n  %a = f32[] 5\n}\n", "no opcode"),
        ("ENTRY %main () -> f32[] {\n  %a = f32[] add(%b\n}\n", "is not closed"),
    ],
)
def test_what_is_no_module_is_refused(text, says):
    with pytest.raises(ValueError, match=says):
        modules.parse(text)
