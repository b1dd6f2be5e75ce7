"""Features of a dataset's images: computed once by a frozen backbone, kept in the workspace, read by trainings."""
