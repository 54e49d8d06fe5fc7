package api

// MemoryAccess is what a session may do with a memory store.
type MemoryAccess string

const (
	MemoryReadWrite MemoryAccess = "read_write"
	MemoryReadOnly  MemoryAccess = "read_only"
)

// MemoryStoreResource is a memory store that a session has, as it stands in
// Session.Resources. Name and Description are those of the session's start.
type MemoryStoreResource struct {
	Type          string       `json:"type"` // "memory_store"
	MemoryStoreID string       `json:"memory_store_id"`
	Access        MemoryAccess `json:"access"`
	Instructions  string       `json:"instructions"`
	Name          string       `json:"name"`
	Description   string       `json:"description"`
	MountPath     string       `json:"mount_path"` // "" where the server names none
}

// Memory is a text in a memory store. In lists it may also be a prefix that
// stands for all below it: then Type is "memory_prefix" and only Path is set.
type Memory struct {
	ID               string  `json:"id"`
	Type             string  `json:"type"` // "memory"
	MemoryStoreID    string  `json:"memory_store_id"`
	MemoryVersionID  string  `json:"memory_version_id"`
	Path             string  `json:"path"`    // begins with /
	Content          *string `json:"content"` // null in the basic view
	ContentSHA256    string  `json:"content_sha256"`
	ContentSizeBytes int64   `json:"content_size_bytes"`
	CreatedAt        Time    `json:"created_at"`
	UpdatedAt        Time    `json:"updated_at"`
}

// MemoryPrefix is an entry of a list that stands for all memories below Path,
// which ends in a slash.
type MemoryPrefix struct {
	Type string `json:"type"` // "memory_prefix"
	Path string `json:"path"`
}

type CreateMemory struct {
	Path    string `json:"path"`
	Content string `json:"content"`
}

// UpdateMemory changes what is set.
type UpdateMemory struct {
	Content      *string             `json:"content,omitempty"`
	Path         *string             `json:"path,omitempty"`
	Precondition *MemoryPrecondition `json:"precondition,omitempty"`
}

// MemoryPrecondition has an update refused when the memory's content is
// another.
type MemoryPrecondition struct {
	Type          string `json:"type"` // "content_sha256"
	ContentSHA256 string `json:"content_sha256"`
}
