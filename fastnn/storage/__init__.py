"""Files that are whole or not there: atomic writes, archives of arrays, model files, folders of checkpoints."""
