"""The loop of a training, and evaluation: where the host waits for the device."""
