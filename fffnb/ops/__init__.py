"""Public functions: check the arguments, choose the device, call the kernel."""
