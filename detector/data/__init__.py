"""The data tree: reading it, filling it and inspecting it."""
