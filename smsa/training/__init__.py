"""Fine-tuning: arguments, Trainer, callbacks, checkpoints, and what a run leaves."""
