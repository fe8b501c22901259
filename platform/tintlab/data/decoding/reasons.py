"""What can become of a file: the codes that reports count by, each with a line for people."""

REASONS = {
    "empty": "The file has no bytes.",
    "not_an_image": "The bytes are of no known image format.",
    "unsupported_format": "An image of a format, or with pixels, that is not read.",
    "too_many_pixels": "More pixels than `max_pixels`; found in the header, before decoding.",
    "decompression_bomb": "Parts that unpack to far more than such a file can need.",
    "truncated": "The file ends before the picture does.",
    "damaged": "The decoder stumbled over the bytes.",
    "too_small": "A side is shorter than `min_side_px`.",
    "no_permission": "The file may not be read.",
    "vanished": "The file was listed, but is not there; or a link leads nowhere.",
    "not_a_file": "A link to a folder, a pipe, a socket or a device.",
    "too_many_bytes": "A file too large for the memory of a worker; not read.",
    "no_images": "A tar or Parquet file without an image in it.",
    "no_image_column": "A Parquet file found in a folder, without a clear column of image bytes.",
    "unreadable": "The storage failed.",
    "changed_while_read": "Not the bytes that were there when the file was hashed.",
    "unexpected_error": "A mistake of ours, not of the file; please report it.",
}
"""Why a file is in quarantine."""

NOTES = {
    "exif_rotated": "Turned or mirrored upright, as EXIF says.",
    "exif_ignored": "The EXIF block cannot be read; taken as upright.",
    "icc_converted": "Colours converted to sRGB from the profile in the file.",
    "icc_ignored": "A broken profile, or one for other pixels; colours taken as they are.",
    "alpha_flattened": "Transparent parts, shown on white.",
    "first_frame": "Of several frames or pages, the first.",
    "cmyk": "Printing inks turned into RGB.",
    "lab": "CIE Lab pixels turned into RGB.",
    "deep_grey": "Grey with more than 8 bits, or as fractions, rounded to 8 bits.",
}
"""What had to be done to a photo that is stored."""
