package config

// Client is how the client verbs reach a control plane.
type Client struct {
	BaseURL string `help:"The control plane." default:"http://127.0.0.1:8400" placeholder:"URL"`
	APIKey  Secret `help:"An API key of it; better given as the variable than as a flag." name:"api-key" placeholder:"KEY"`
	JSON    bool   `help:"Print JSON." name:"json"`
}

// Validate checks that the address is one.
func (c Client) Validate() error { return httpURL("--base-url", c.BaseURL) }

// NeedKey checks that there is a key.
func (c Client) NeedKey() error {
	if c.APIKey == "" {
		return wrong("set BERTH_API_KEY or --api-key (berth dev prints one, berth keys create --api makes one)", "an API key is missing")
	}
	return nil
}
