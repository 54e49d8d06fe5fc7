package agentwire

import "time"

// FileOp is one thing to do with a path. No operation follows a link, in any
// part of its path, and the agent keeps nothing between two: whoever reads a
// file in pieces tells by its Inode that it is still the same one.
type FileOp uint8

// The operations and what they use and answer beside Path.
const (
	FileStat     FileOp = iota + 1 // Info
	FileLink                       // Data: where a symbolic link leads
	FileRead                       // Offset, Length: Data and Info of a regular file
	FileMkdir                      //
	FileCreate                     // a regular file that is not there yet, with Data and the mode Length, 0600 where that is 0
	FilePut                        // Data at Offset of a regular file
	FileTruncate                   // to Offset bytes
	FileChmod                      // to Length
	FileRename                     // to To
	FileRemove                     // a file
	FileList                       // Entries from the Offset-th on
	FileSymlink                    // a symbolic link that leads to Data
	FileRmdir                      // a directory that is empty
)

// MaxChunk is the most data of one operation, and about the most of a part of
// a directory.
const MaxChunk = 1 << 20

// FileRequest asks for an operation. Paths are absolute and clean.
type FileRequest struct {
	ID     uint64
	Op     FileOp
	Path   string
	To     string
	Offset int64
	Length int64
	Data   []byte
}

// FileReply answers a request. Errno is Linux's, or one of the two below; 0 is
// success.
type FileReply struct {
	ID      uint64
	Errno   uint32
	Info    FileInfo
	Data    []byte
	Entries []FileEntry
	More    bool // of a directory: there are more entries
}

// Numbers beyond the kernel's.
const (
	FileMoved   = 10_001 // a part of the path is a link
	FileOutside = 10_002 // the path is not in a place that the agent serves
)

// FileInfo is of a path itself, links not followed. Mode is the kernel's.
type FileInfo struct {
	Mode  uint32
	Size  int64
	Time  time.Time // to the second
	Inode uint64
	Links uint64
}

// FileEntry is a name in a directory; Type are the kernel's DT_ values.
type FileEntry struct {
	Name string
	Type uint8
}

// Encode gives the message's body.
func (m FileRequest) Encode() []byte {
	f := make(fields, 0, len(m.Path)+len(m.To)+len(m.Data)+48)
	f.num(m.ID)
	f.num(uint64(m.Op))
	f.str(m.Path)
	f.str(m.To)
	f.num(uint64(m.Offset))
	f.num(uint64(m.Length))
	f.bytes(m.Data)
	return f
}

// DecodeFileRequest reads a FileRequest.
func DecodeFileRequest(b []byte) (FileRequest, error) {
	p := parser{b: b}
	m := FileRequest{ID: p.num(), Op: FileOp(p.num() & 0xff), Path: p.str(), To: p.str(), Offset: p.size(), Length: p.size(), Data: p.bytes()}
	if len(m.Data) > MaxChunk || m.Length > MaxChunk && m.Op != FileChmod {
		return FileRequest{}, ErrTooLarge
	}
	return m, p.end()
}

// Encode gives the message's body.
func (m FileReply) Encode() []byte {
	f := make(fields, 0, len(m.Data)+len(m.Entries)*24+64)
	f.num(m.ID)
	f.num(uint64(m.Errno))
	f.num(uint64(m.Info.Mode))
	f.num(uint64(m.Info.Size))
	f.num(uint64(m.Info.Time.Unix()))
	f.num(m.Info.Inode)
	f.num(m.Info.Links)
	f.bytes(m.Data)
	f.num(uint64(len(m.Entries)))
	for _, e := range m.Entries {
		f.str(e.Name)
		f.num(uint64(e.Type))
	}
	f.bool(m.More)
	return f
}

// DecodeFileReply reads a FileReply.
func DecodeFileReply(b []byte) (FileReply, error) {
	p := parser{b: b}
	m := FileReply{ID: p.num(), Errno: p.num32(), Info: FileInfo{Mode: p.num32(), Size: p.size(), Time: time.Unix(p.size(), 0), Inode: p.num(), Links: p.num()}, Data: p.bytes()}
	if len(m.Data) > MaxChunk {
		return FileReply{}, ErrTooLarge
	}
	n := p.count()
	if n > MaxChunk/2 { // each takes two bytes of a chunk at least
		return FileReply{}, ErrTooLarge
	}
	for range n {
		m.Entries = append(m.Entries, FileEntry{Name: p.str(), Type: uint8(p.num())})
		if p.bad {
			return FileReply{}, ErrBad
		}
	}
	m.More = p.bool()
	return m, p.end()
}

// size is a number that is not negative as an int64.
func (p *parser) size() int64 { return int64(p.num() & (1<<62 - 1)) }
