package api

// CreateKey asks for a credential. Berth's own call: the contract has no way
// to make one.
type CreateKey struct {
	Type          string `json:"type"`                     // "api" or "environment"
	EnvironmentID string `json:"environment_id,omitempty"` // of an environment key
	Name          string `json:"name,omitempty"`
}

// Key is a credential as an operator sees it. Key holds the secret itself, in
// the answer that made it and never again.
type Key struct {
	ID            string  `json:"id"`
	Type          string  `json:"type"` // "api" or "environment"
	EnvironmentID *string `json:"environment_id"`
	Name          string  `json:"name"`
	Key           string  `json:"key,omitempty"`
	CreatedAt     Time    `json:"created_at"`
	LastUsedAt    *Time   `json:"last_used_at"`
	RevokedAt     *Time   `json:"revoked_at"`
}
