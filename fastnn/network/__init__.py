"""What a model is made of: layers with their arrays, the programs of a step, and what training changes."""
