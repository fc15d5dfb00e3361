"""Recognising files that are not read, to tell the user what they are.

The texts become reasons of quarantine. They are stored in data/raw, so a changed text becomes
visible there.
"""

import re

LOOKED_AT = 1024  # bytes of a file

# Template of a reason -> (pattern of the first bytes, name of the kind of file). The first match
# counts.
BEGINNINGS = {
    "{} is not read; convert to PNG or JPEG": [
        (rb"(?i:\s*(<\?xml.*?\?>\s*)?(<!--.*?-->\s*)?(<!doctype svg.*?>\s*)?<svg)", "SVG"),
        (rb"\x1f\x8b.{1,40}\.svg\0", "SVG"),
        (rb"8BPS", "Photoshop's PSD"),
        (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
        (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
        (rb"II\xbc", "JPEG XR"),
        (rb"%PDF", "PDF"),
        (rb"%!PS|\xc5\xd0\xd3\xc6", "EPS"),
        (rb"SIMPLE  =", "FITS"),
        (rb".{128}DICM", "DICOM"),
        (rb".{344}(n\+1|ni1)\0", "NIfTI"),
        (rb"\0\0[\x01\x02]\0.\0|icns", "an icon file (ICO, ICNS)"),
        (rb"gimp xcf", "GIMP's XCF"),
        (rb"v/1\x01", "OpenEXR"),
        (rb"#\?(RADIANCE|RGBE)", "Radiance HDR"),
        (rb"DDS ", "DDS"),
        (rb"qoif", "QOI"),
        (rb"P[1-7][ \t\r\n]\s*[0-9#W]", "PNM (PPM, PGM, PBM)"),
        (rb"\x0a[\0-\x05]\x01[\x01\x02\x04\x08]", "PCX"),
        (rb"AT&TFORM", "DjVu"),
        (rb"BPG\xfb", "BPG"),
        (rb"\xd7\xcd\xc6\x9a|\x01\0\0\0.{36} EMF", "a Windows metafile (WMF, EMF)"),
    ],
    "a raw photograph ({}) is not read; develop it to JPEG or PNG": [
        (rb"(II\*\0|MM\0\*).{4}CR", "Canon CR2"),
        (rb"....ftypcrx ", "Canon CR3"),
        (rb"II.{4}HEAPCCDR", "Canon CRW"),
        (rb"IIR[OS]|MMOR", "Olympus ORF"),
        (rb"IIU\0", "Panasonic RW2"),
        (rb"FUJIFILMCCD-RAW", "Fujifilm RAF"),
        (rb"FOVb", "Sigma X3F"),
        (rb"\0MRM", "Minolta MRW"),
        (rb"II[*+]\0|MM\0[*+]", "DNG, NEF, ARW or another TIFF whose first page is a preview"),
    ],
    "a video ({}), not an image; take frames out of it": [
        (rb"....(ftyp|moov|mdat|wide|skip|free)", "MP4 or QuickTime"),
        (rb"\x1a\x45\xdf\xa3", "Matroska or WebM"),
        (rb"RIFF....AVI ", "AVI"),
        (rb"\0\0\x01[\xba\xb3]|G.{187}G|.{4}G.{191}G", "MPEG"),
        (rb"\x30\x26\xb2\x75\x8e\x66", "Windows Media"),
        (rb"FLV\x01", "Flash"),
        (rb"OggS", "Ogg"),
    ],
    "{}, not an image": [
        (rb"(?i:\s*(<\?xml.*?\?>\s*)?<(!doctype html|html|head|body))", "an HTML page"),
        (rb"RIFF....WAVE|ID3|fLaC", "a sound"),
        (rb"PK\x03\x04", "a zip archive"),
        (rb"\x1f\x8b", "a gzip file"),
        (rb"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (rb"Rar!\x1a\x07", "a RAR archive"),
        (rb"\x89HDF", "an HDF5 file"),
        (rb"\x93NUMPY", "a NumPy array"),
        (rb"\0\x05\x16[\0\x07]", "macOS's notes on a file"),
        (rb"\xd0\xcf\x11\xe0", "an Office document"),
        (rb"SQLite format 3", "a database"),
        (rb"\x7fELF|MZ.\0", "a program"),
    ],
    "{}": [
        (rb"\s*\Z", "empty file"),
        (rb"\0{64}", "begins with zero bytes: lost on a disk or half copied; restore it"),
        (rb"version https://git-lfs", "a Git LFS pointer, not the image; run `git lfs pull`"),
        (rb"(\xef\xbb\xbf)?[\t\n\r\x20-\x7e]{4}", "text, not an image"),
    ],
}


_TRIED = [
    (re.compile(beginning, re.DOTALL), words.format(kind))
    for words, kinds in BEGINNINGS.items()
    for beginning, kind in kinds
]


def describe(data: bytes) -> str:
    """The reason why a file with these bytes is not read."""
    start = data[:LOOKED_AT]
    for beginning, reason in _TRIED:
        if beginning.match(start):
            return reason
    return f"no format that is known here (begins with {data[:8].hex(' ')})"
