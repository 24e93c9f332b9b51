"""Which code keeps AdamW's moments between steps in 8 bits: candidates, measured."""
