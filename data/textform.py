"""From source files to plain text: the normal form, SWORD modules, Markdown. No input or output but bytes and str."""
import html
import re
import struct
import zlib

BOUNDARY = "<|endoftext|>\n"


class TextError(Exception):
    """A source that can't be read; the message is one line."""


# ---- Normal form ---------------------------------------------------------------------------------

_PLAIN = str.maketrans({
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"',
    "\u2010": "-", "\u2011": "-", "\u2013": "-", "\u2014": "--", "\u2026": "...",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u3000": " ",
    "\u2028": "\n", "\u2029": "\n", "\ufeff": None, "\u200b": None,
})
_LINE_END = re.compile(r"[ \t]+(?=\n|\Z)")
_MARKDOWN_FURNITURE = re.compile(r"^(?:#.*|-{5,})(?:\n|\Z)", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{3,}")


def normal_form(text, markdown=False):
    """One document in the form that every corpus has: LF, plain quotes, dashes and blanks, nothing at the ends of
    lines, at most one blank line, one LF at the end; of Markdown, headings and rules are left out. "" if nothing is
    left."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_PLAIN)
    text = _LINE_END.sub("", text)
    if markdown:
        text = _MARKDOWN_FURNITURE.sub("", text)
    text = _BLANK_LINES.sub("\n\n", text).strip("\n")
    return text + "\n" if text else ""


def join_documents(documents):
    return BOUNDARY.join(documents)


def decode(data, name):
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise TextError(f"{name}: not UTF-8 at byte {e.start}; convert it first (iconv -t UTF-8)") from None


# ---- SWORD modules -------------------------------------------------------------------------------

def sword_blocks(index, blocks, name):
    """The plain blocks of a zText or zCom4 module part. index: records of three little-endian uint32, offset, packed
    size and plain size, into `blocks`, each a zlib stream."""
    if len(index) % 12:
        raise TextError(f"{name}: the index has {len(index)} bytes, no multiple of 12")
    for k, (offset, packed, plain) in enumerate(struct.iter_unpack("<III", index)):
        if offset + packed > len(blocks):
            raise TextError(f"{name}: block {k} ends at byte {offset + packed} of {len(blocks)}")
        unpacker = zlib.decompressobj()
        try:
            data = unpacker.decompress(blocks[offset:offset + packed], plain + 1)
        except zlib.error as e:
            raise TextError(f"{name}: block {k}: {e}") from None
        if len(data) != plain or not unpacker.eof:
            raise TextError(f"{name}: block {k} has {len(data)} bytes, the index says {plain}")
        yield data


_NOTE = re.compile(r"<note\b[^>]*>.*?</note>", re.DOTALL)
_TAG = re.compile(r"<(/?)([A-Za-z]+)([^>]*)>")
_PARAGRAPH_TAGS = {"div", "p", "title", "chapter", "lg", "list", "table", "speaker", "milestone", "verse"}
_LINE_TAGS = {"l", "lb", "br", "item", "row"}


def _tag_text(match):
    closing, tag, attributes = match.groups()
    if tag in _PARAGRAPH_TAGS:
        return "\n\n"
    if tag in _LINE_TAGS:  # once, where it starts: <l sID=.../> ... <l eID=.../> is one line
        return "" if closing or "eID=" in attributes else "\n"
    return " " if tag == "cell" else ""


def osis_text(markup):
    """Plain text of OSIS markup: notes dropped, paragraphs and lines kept."""
    text = html.unescape(_TAG.sub(_tag_text, _NOTE.sub("", markup)))
    return "\n".join(re.sub(r"[ \t]+", " ", line).strip() for line in text.split("\n"))


def sword_documents(files, name):
    """One document a block (a chapter or a book, as the module was built), Old Testament first. files: file name ->
    bytes of the module's folder."""
    found = False
    for testament in ("ot", "nt"):
        for letter in "bcv":
            index, blocks = (files.get(f"{testament}.{letter}z{kind}") for kind in "sz")
            if index is None or blocks is None:
                continue
            found = True
            for block in sword_blocks(index, blocks, f"{name}/{testament}"):
                document = normal_form(osis_text(decode(block, name)))
                if document:
                    yield document
    if not found:
        raise TextError(f"{name}: no SWORD module here: neither ot nor nt with .?zs and .?zz files")


# ---- Markdown ------------------------------------------------------------------------------------

_IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
_NAVIGATION = re.compile(r"\[[^\]]*\]\([^)]*\"Go to[^)]*\)")  # previous, up, next at the foot of a page
_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\([^)]*\)")
_AUTOLINK = re.compile(r"<(?:https?|mailto|ftp):[^>]*>")
_EMPHASIS = re.compile(r"(?<!\\)\*+|(?<!\w)_+|_+(?!\w)")
_BULLET = re.compile(r"[*+-]\s+")


def _paragraphs(lines):
    """Hard-wrapped lines joined to paragraphs; headings and bullets start one, two blanks at the end of a line end
    one."""
    paragraph = ""
    for line in lines:
        hard_break = line.endswith("  ")
        line = re.sub(r"^(?:\s*>)+", "", line).strip()
        bullet = _BULLET.match(line)
        if bullet or line.startswith("#") or not re.search(r"\w", line):
            yield paragraph
            paragraph = ""
        if bullet:
            line = "- " + line[bullet.end():]
        line = line.lstrip("#").lstrip()
        if not re.search(r"\w", line):
            continue
        if re.search(r"\w-$", paragraph):
            paragraph += line  # was wrapped behind a hyphen
        else:
            paragraph = f"{paragraph} {line}" if paragraph else line
        if hard_break:
            yield paragraph
            paragraph = ""
    yield paragraph


def markdown_text(markup):
    """Running text of Markdown: links and marks cut, paragraphs unwrapped."""
    markup = markup.replace("\r\n", "\n")
    for pattern, text in ((_IMAGE, ""), (_NAVIGATION, ""), (_LINK, r"\1"), (_AUTOLINK, "")):
        markup = pattern.sub(text, markup)
    out = []
    for p in _paragraphs(markup.split("\n")):
        p = re.sub(r"\\([^\w\s])", r"\1", html.unescape(_EMPHASIS.sub("", p)))
        p = re.sub(r"[ \t]+", " ", p).strip()
        p = re.sub(r" +([,.;:!?])(?=\s|$)|([\[(]) +", r"\1\2", p)  # blanks that stood outside of emphasis
        if p:
            out.append(p)
    return "\n\n".join(out)
