"""The loop: the only place, with evaluation, that waits for the device."""
