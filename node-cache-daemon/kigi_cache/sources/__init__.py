"""Where layers come from: the S3 repository and other nodes."""
