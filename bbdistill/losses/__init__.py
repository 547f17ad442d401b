"""Pure losses: tensors in, `LossOutput` out. Imports torch and nothing of ours; no model, no I/O, no config."""
