"""`optadamw demo`: AdamW shown on real data, in a report of four chapters.

`settings` and `arguments` define the options. A part of the demo returns a `chapter`:
`heatmap` (with `grid`), `precision`, `faults` (with `worker`) and `comparison`. `task`,
`tasks`, `digits`, `model` and `text` define what is trained; `optimizers`, `training`
and `evaluation` train it; `progress`, `figures`, `report`, `page` and `summary` show
the results; `command` runs the parts in order.
"""
