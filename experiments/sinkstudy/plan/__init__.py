"""What is to be run: a study.yaml read, checked and expanded."""
