"""Clips: found, indexed, examined, captioned, put in order, and handed out in batches."""
