"""What a call may consume, and what it cost."""
