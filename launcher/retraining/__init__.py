"""Training on a schedule: published data, schedules, and the champion that only a better adapter replaces."""
