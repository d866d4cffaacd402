"""The annotation screen: a web server for reviewers and administrators."""
