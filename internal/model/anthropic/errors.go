package anthropic

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	sdk "github.com/anthropics/anthropic-sdk-go"

	"github.com/berthdev/berth/internal/model"
)

// broken is a stream that ended, or went wrong, before the answer was whole.
func (m *Model) broken(a *answer, cause error) error {
	msg := "the provider's answer ended early"
	if cause != nil {
		msg = "the provider's answer could not be read"
		cause = errors.New(m.clean(cause.Error()))
	}
	return &model.Error{Kind: model.Unavailable, Message: msg, Amid: a.began, Usage: a.usage(), Err: cause}
}

// failure turns the SDK's error into ours. Neither its text nor the cause for
// our own log holds an address or a credential.
func (m *Model) failure(a *answer, err error) error {
	out := &model.Error{Kind: model.Unavailable, Amid: a.began, Usage: a.usage()}
	apiErr, ok := errors.AsType[*sdk.Error](err)
	if !ok {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err
		}
		out.Message = "the provider could not be reached"
		if a.began {
			out.Message = "the connection to the provider broke"
		}
		out.Err = errors.New(m.clean(err.Error()))
		return out
	}
	out.Kind = kindOf(string(apiErr.Type()), apiErr.StatusCode)
	out.Message = m.message(apiErr)
	out.Err = fmt.Errorf("status %d, type %q, request id %q", apiErr.StatusCode, apiErr.Type(), apiErr.RequestID)
	if apiErr.Response != nil && apiErr.StatusCode >= 400 {
		out.RetryAfter = retryAfter(apiErr.Response.Header)
	}
	return out
}

// kindOf goes by the error's type, which a stream has too, then by the status.
func kindOf(kind string, status int) model.ErrorKind {
	switch kind {
	case "overloaded_error":
		return model.Overloaded
	case "rate_limit_error":
		return model.RateLimited
	case "billing_error":
		return model.Billing
	case "authentication_error", "permission_error":
		return model.Credential
	case "invalid_request_error", "not_found_error", "request_too_large":
		return model.RequestFailed
	case "api_error", "timeout_error":
		return model.Unavailable
	}
	switch {
	case status == 529:
		return model.Overloaded
	case status == http.StatusTooManyRequests:
		return model.RateLimited
	case status == http.StatusPaymentRequired:
		return model.Billing
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return model.Credential
	case status == http.StatusRequestTimeout, status == http.StatusConflict:
		return model.Unavailable
	case status >= 400 && status < 500:
		return model.RequestFailed
	}
	return model.Unavailable
}

// message is what the provider said, shortened.
func (m *Model) message(e *sdk.Error) string {
	var body struct {
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	said := ""
	if json.Unmarshal([]byte(e.RawJSON()), &body) == nil {
		said = m.clean(body.Error.Message)
	}
	switch {
	case kindOf(string(e.Type()), e.StatusCode) == model.Credential:
		return "the provider does not accept this server's key"
	case said != "":
		return said
	case e.StatusCode >= 400:
		return fmt.Sprintf("the provider answered with status %d", e.StatusCode)
	}
	return "the provider reported an error"
}

// clean takes our key out of a text and shortens it.
func (m *Model) clean(s string) string {
	if m.cfg.APIKey != "" {
		s = strings.ReplaceAll(s, m.cfg.APIKey, "[key]")
	}
	s = strings.ToValidUTF8(s, "�")
	if utf8.RuneCountInString(s) > 500 {
		s = string([]rune(s)[:500]) + "…"
	}
	return s
}

// retryAfter is the pause a provider asks for, 0 for none.
func retryAfter(h http.Header) time.Duration {
	if ms, err := strconv.ParseFloat(h.Get("Retry-After-Ms"), 64); err == nil && ms > 0 && ms < 1e9 {
		return time.Duration(ms * float64(time.Millisecond))
	}
	v := h.Get("Retry-After")
	if s, err := strconv.ParseFloat(v, 64); err == nil && s > 0 && s < 1e6 {
		return time.Duration(s * float64(time.Second))
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}
