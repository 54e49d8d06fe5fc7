package toolset

import (
	"bytes"
	"slices"
	"unicode/utf8"
)

const typePDF = "application/pdf"

var imageTypes = []string{"image/png", "image/jpeg", "image/gif", "image/webp"}

func isImage(mediaType string) bool { return slices.Contains(imageTypes, mediaType) }

// signatures are the first bytes of the kinds of files that agents meet.
var signatures = []struct{ start, kind string }{
	{"\x89PNG\r\n\x1a\n", "image/png"},
	{"\xff\xd8\xff", "image/jpeg"},
	{"GIF87a", "image/gif"},
	{"GIF89a", "image/gif"},
	{"%PDF-", typePDF},
	{"PK\x03\x04", "a ZIP archive (or a document in one: xlsx, docx, jar)"},
	{"PK\x05\x06", "an empty ZIP archive"},
	{"\x1f\x8b", "gzip data"},
	{"BZh", "bzip2 data"},
	{"\xfd7zXZ\x00", "xz data"},
	{"\x28\xb5\x2f\xfd", "zstd data"},
	{"7z\xbc\xaf\x27\x1c", "a 7z archive"},
	{"Rar!\x1a\x07", "a RAR archive"},
	{"\x7fELF", "an ELF program or library"},
	{"\xcf\xfa\xed\xfe", "a Mach-O program or library"},
	{"\xca\xfe\xba\xbe", "a Java class or universal Mach-O file"},
	{"\x00asm", "WebAssembly"},
	{"SQLite format 3\x00", "a SQLite database"},
	{"PAR1", "Parquet data"},
	{"ARROW1\x00", "Arrow data"},
	{"\x93NUMPY", "a NumPy array"},
	{"\x89HDF\r\n\x1a\n", "HDF5 data"},
	{"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document"},
	{"\xff\xfe\x00\x00", "UTF-32 text (iconv -f UTF-32 converts it)"},
	{"\xff\xfe", "UTF-16 text (iconv -f UTF-16 converts it)"},
	{"\xfe\xff", "UTF-16 text (iconv -f UTF-16 converts it)"},
	{"OggS", "Ogg media"},
	{"fLaC", "FLAC audio"},
	{"ID3", "MP3 audio"},
	{"wOFF", "a web font"},
	{"wOF2", "a web font"},
	{"!<arch>\n", "a library or Debian archive"},
}

// sniff says what a file that begins so is, or "" when it is text. Text may
// hold stray bytes that are not UTF-8, but no NUL.
func sniff(start []byte) string {
	textual := looksLikeText(start)
	for _, s := range signatures {
		// A signature of letters alone may begin a text.
		if bytes.HasPrefix(start, []byte(s.start)) && (!textual || s.kind == typePDF) {
			return s.kind
		}
	}
	if len(start) >= 12 && string(start[:4]) == "RIFF" && !textual {
		if string(start[8:12]) == "WEBP" {
			return "image/webp"
		}
		return "RIFF media"
	}
	if len(start) >= 12 && string(start[4:8]) == "ftyp" && !textual {
		return "MP4 or QuickTime media"
	}
	if len(start) >= 262 && string(start[257:262]) == "ustar" {
		return "a tar archive"
	}
	if !textual {
		return "binary data"
	}
	return ""
}

// looksLikeText says whether bytes read as text: no NUL, and few bytes that
// are neither UTF-8 nor print.
func looksLikeText(b []byte) bool {
	if bytes.IndexByte(b, 0) >= 0 {
		return false
	}
	odd, n := 0, len(b)
	for len(b) > 0 {
		r, size := utf8.DecodeRune(b)
		if r == utf8.RuneError && size == 1 || r < ' ' && r != '\n' && r != '\r' && r != '\t' && r != '\f' && r != '\b' && r != 0x1b {
			odd++
		}
		b = b[size:]
	}
	return odd*10 <= n*3
}
