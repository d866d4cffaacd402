"""Networks that restore and do not describe, written from their papers: what MedQ-UNI is compared with."""
