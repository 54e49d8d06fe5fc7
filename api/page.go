package api

// Page is one page of a list. NextPage is an opaque cursor for the query
// parameter page, null on the last one.
type Page[T any] struct {
	Data     []T     `json:"data"`
	NextPage *string `json:"next_page"`
}

// TwoWayPage also pages backwards; only the session list does.
type TwoWayPage[T any] struct {
	Data     []T     `json:"data"`
	NextPage *string `json:"next_page"`
	PrevPage *string `json:"prev_page"`
}

// IDPage pages by the ids at its ends (after_id, before_id).
type IDPage[T any] struct {
	Data    []T     `json:"data"`
	HasMore bool    `json:"has_more"`
	FirstID *string `json:"first_id"`
	LastID  *string `json:"last_id"`
}

// EventPage is a page of a session's log.
type EventPage struct {
	Data     EventList `json:"data"`
	NextPage *string   `json:"next_page"`
}
