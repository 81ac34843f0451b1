"""The expert that reads text in pictures: find regions, rectify, turn, recognise, put in reading order."""
