"""What is said beside every result."""

NOTICE = "Research use only. Not a medical device."
