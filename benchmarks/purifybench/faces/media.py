"""Which files are images or videos, and a video's middle frames, where an expression that comes and goes is at its peak."""

from itertools import islice
from pathlib import Path

from PIL import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".pgm", ".ppm")
VIDEO_SUFFIXES = (".avi", ".mp4", ".mov", ".mpg", ".mpeg")
#: Frames taken of a video.
MIDDLE = 3


def middle_frames(path: Path, count: int = MIDDLE) -> list[Image.Image]:
    """The `count` frames in the middle of a video, in their order.

    Raises:
        ImportError: without PyAV.
        ValueError: if the file is no video, or has fewer frames.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError("reading videos needs PyAV: pip install av") from error
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path} has no video stream")
            total = sum(packet.size > 0 for packet in container.demux(video=0))
        with av.open(str(path)) as container:
            start = max(0, (total - count) // 2)
            frames = [frame.to_image() for frame in islice(container.decode(video=0), start, start + count)]
    except av.FFmpegError as error:
        raise ValueError(f"{path} cannot be read as a video ({error}): copy it again, or take it away") from error
    if len(frames) < count:
        raise ValueError(f"{path} must have at least {count} frames, got {min(total, start + len(frames))}")
    return frames
