"""`optadamw demo`: train a small network on handwritten digits with AdamW.

`settings` and `arguments` define the options. `data` and `model` define the task,
`optimizers`, `training` and `evaluation` solve it, `progress`, `report` and `summary`
show the results, and `command` calls all of these in order.
"""
