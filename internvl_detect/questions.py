"""The questions that the detector asks and is trained on: one wording for data, training and detection."""

IMAGE_QUESTION = (
    "Tell me if there are synthesis artifacts in the image or not. Must return with: 1)yes or no only. "
    "2)If yes, explain where the artifacts is with one sentence."
)
VIDEO_QUESTION = "Tell me if there are synthesis artifacts in the video or not. Must return with yes or no only"
