"""The paper's table and figures as data: each cell = configuration + published value + status."""
