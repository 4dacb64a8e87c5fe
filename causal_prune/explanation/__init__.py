"""What a network looks at: the documented class, and what it reads and draws."""
