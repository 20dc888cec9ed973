"""The one door to AWS: nothing outside this package imports boto3 or sagemaker."""
