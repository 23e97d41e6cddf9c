"""What the stages of the pipeline must agree on: one module, one subject. Modules know nothing of stages."""
