"""Images that are no files of their own: parts of a larger file, or bytes in memory."""

from tljax.data.packed.member import Content, ImageFile, Member, content_of, is_there, place_of

__all__ = ["Content", "ImageFile", "Member", "content_of", "is_there", "place_of"]
