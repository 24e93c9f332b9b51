"""`optadamw demo`: train a small network on handwritten digits with AdamW.

`settings` and `arguments` say what can be chosen, `data` and `model` what is trained,
`optimizers`, `training` and `evaluation` how, `progress`, `report` and `summary` what
is told, and `command` puts them in order.
"""
