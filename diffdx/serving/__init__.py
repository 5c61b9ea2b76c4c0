"""Models put to work for others: a web page and REST."""
