"""From good images of known subjects to when, how far and how sure a model may act."""
