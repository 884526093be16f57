"""What of torch's own module and operator databases trains as torch trains it."""
