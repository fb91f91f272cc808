"""What is counted, safely."""
