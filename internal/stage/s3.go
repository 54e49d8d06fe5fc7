package stage

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"
)

// objects reads from S3 with the credentials of the supervisor's AWS chain
// (variables, files, the machine's role), looked up when first needed.
type objects struct {
	endpoint string

	mu     sync.Mutex
	client *s3.Client
}

func (o *objects) get(ctx context.Context) (*s3.Client, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.client != nil {
		return o.client, nil
	}
	cfg, err := config.LoadDefaultConfig(ctx, config.WithLogger(logging.Nop{}))
	if err != nil {
		return nil, errors.New("the worker's AWS settings cannot be read")
	}
	if cfg.Region == "" {
		cfg.Region = "us-east-1"
	}
	o.client = s3.NewFromConfig(cfg, func(s *s3.Options) {
		if o.endpoint != "" {
			s.BaseEndpoint, s.UsePathStyle = aws.String(o.endpoint), true
		}
	})
	return o.client, nil
}

// allowed says whether the operator lets inputs come from there.
func (s *Stager) allowed(bucket, key string) bool {
	if path.Clean("/"+key) != "/"+key { // a server may take it for another name
		return false
	}
	for _, b := range s.cfg.Buckets {
		name, prefix, _ := strings.Cut(b, "/")
		if name == bucket && (prefix == "" || within(key, prefix)) {
			return true
		}
	}
	return false
}

func (s *Stager) object(ctx context.Context, in Input, j *load) error {
	bucket, key := in.URL.Host, strings.TrimPrefix(in.URL.Path, "/")
	if !s.allowed(bucket, key) {
		return refused("it is in no bucket that the worker reads inputs from (--input-bucket)")
	}
	client, err := s.store.get(ctx)
	if err != nil {
		return passing("%s", err)
	}
	ask := &s3.GetObjectInput{Bucket: aws.String(bucket), Key: aws.String(key)}
	query, err := url.ParseQuery(in.URL.RawQuery)
	if err != nil || len(query) > 1 || len(query) == 1 && !query.Has("versionId") {
		return refused("an s3: URL may have ?versionId= and nothing else")
	}
	if v := query.Get("versionId"); v != "" {
		ask.VersionId = aws.String(v)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(headerTime, func() { cancel(passing("the server does not answer")) })
	defer stall.Stop()
	res, err := client.GetObject(ctx, ask)
	if err != nil {
		if f, ok := errors.AsType[*failure](context.Cause(ctx)); ok {
			return f
		}
		return objectFailure(err)
	}
	defer res.Body.Close()
	if n := aws.ToInt64(res.ContentLength); n > j.total.left.Load() {
		return j.take(n)
	}
	err = j.write(in, res.Body, func() { stall.Reset(stallTime) })
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// objectFailure words an error of S3: the SDK's own words may hold the
// endpoint, request ids and how the credentials were looked for.
func objectFailure(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	re, ok := errors.AsType[*awshttp.ResponseError](err)
	if !ok {
		return passing("the S3 server could not be asked, or the worker has no AWS credentials")
	}
	switch code := re.HTTPStatusCode(); {
	case code == http.StatusNotFound:
		return refused("there is no such object")
	case code == http.StatusForbidden || code == http.StatusUnauthorized:
		return refused("the S3 server does not let the worker read it")
	case code >= 500 || code == http.StatusTooManyRequests:
		return passing("the S3 server answered %d", code)
	default:
		return refused("the S3 server answered %d", code)
	}
}
