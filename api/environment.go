package api

import "encoding/json"

// Environment is a queue of work for the workers that hold one of its keys.
type Environment struct {
	ID          string            `json:"id"`
	Type        string            `json:"type"` // "environment"
	Name        string            `json:"name"`
	Description *string           `json:"description"`
	Config      EnvironmentConfig `json:"config"`
	Metadata    Metadata          `json:"metadata"`
	Scope       string            `json:"scope,omitempty"` // "organization"
	CreatedAt   Time              `json:"created_at"`
	UpdatedAt   Time              `json:"updated_at"`
	ArchivedAt  *Time             `json:"archived_at"`
}

// EnvironmentConfig says where tools run: "self_hosted" here, always. The
// members of "cloud" are carried so that a client's request can be refused
// by name.
type EnvironmentConfig struct {
	Type       string          `json:"type"`
	Networking json.RawMessage `json:"networking,omitempty"`
	Packages   json.RawMessage `json:"packages,omitempty"`
}

type CreateEnvironment struct {
	Name        string             `json:"name"`
	Description *string            `json:"description,omitempty"`
	Config      *EnvironmentConfig `json:"config,omitempty"`
	Metadata    Metadata           `json:"metadata,omitempty"`
	Scope       string             `json:"scope,omitempty"`
}

// UpdateEnvironment changes the fields that are there. A metadata value of
// null or "" deletes its key.
type UpdateEnvironment struct {
	Name        Optional[string]            `json:"name,omitzero"`
	Description Optional[string]            `json:"description,omitzero"`
	Config      Optional[EnvironmentConfig] `json:"config,omitzero"`
	Metadata    Optional[MetadataPatch]     `json:"metadata,omitzero"`
	Scope       Optional[string]            `json:"scope,omitzero"`
}
