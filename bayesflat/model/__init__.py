"""The statistical model; nothing here touches files."""
