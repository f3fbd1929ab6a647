"""From a denoiser to clips: one window, guidance as it is asked for, long videos, editing, masks."""
