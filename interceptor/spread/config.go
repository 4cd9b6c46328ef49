package spread

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/serviceconfig"

	"github.com/rego-go/rego/internal/backends"
)

// The names of the policies, as in a service config.
const (
	// Name is the policy that wraps another one, its childPolicy.
	Name = "rego_spread"
	// RoundRobin takes backends in turn. It has no configuration.
	RoundRobin = "rego_round_robin"
)

func init() {
	balancer.Register(spreadBuilder{})
	balancer.Register(roundRobinBuilder{})
}

// ServiceConfig returns a service config, for grpc.WithDefaultServiceConfig, in which
// rego_spread wraps the policy child with its defaults: round_robin, or
// least_request_experimental if its package is imported. For [RoundRobin] it is that policy
// without a wrapper.
//
// A channel has only one default service config, and a config that its resolver sends is
// stronger. If you need more in it, write the JSON yourself:
//
//	{"loadBalancingConfig": [{"rego_spread": {"childPolicy": [{"round_robin": {}}]}}]}
//
// childPolicy is a list like loadBalancingConfig: the first policy that is registered
// counts. If none is, [grpc.NewClient] returns an error that says so.
func ServiceConfig(child string) string {
	type policies []map[string]any
	chosen := policies{{child: struct{}{}}}
	if child != RoundRobin {
		chosen = policies{{Name: map[string]policies{"childPolicy": chosen}}}
	}
	js, err := json.Marshal(map[string]policies{"loadBalancingConfig": chosen})
	if err != nil {
		panic(err) // a string can be encoded
	}
	return string(js)
}

// config is that of rego_spread.
type config struct {
	serviceconfig.LoadBalancingConfig
	child       balancer.Builder
	childConfig serviceconfig.LoadBalancingConfig
	written     json.RawMessage
}

// MarshalJSON implements [json.Marshaler]. There are policies that encode the config of
// their child, and parse that again.
func (c *config) MarshalJSON() ([]byte, error) { return c.written, nil }

// ParseConfig implements [balancer.ConfigParser]. From here on calls keep records, and not
// only when the balancer is built: the first call of a channel comes before that.
func (spreadBuilder) ParseConfig(js json.RawMessage) (serviceconfig.LoadBalancingConfig, error) {
	backends.Expect()
	var written struct {
		ChildPolicy []map[string]json.RawMessage `json:"childPolicy"`
	}
	if err := json.Unmarshal(js, &written); err != nil {
		return nil, fmt.Errorf("%s: %w", Name, err)
	}
	if len(written.ChildPolicy) == 0 {
		return nil, fmt.Errorf("%s: childPolicy: must name a policy", Name)
	}
	var unknown []string
	for i, one := range written.ChildPolicy {
		if len(one) != 1 {
			return nil, fmt.Errorf("%s: childPolicy[%d]: must have one policy, has %d", Name, i, len(one))
		}
		for name, childJS := range one {
			child := balancer.Get(name)
			if child == nil {
				unknown = append(unknown, strconv.Quote(name))
				continue
			}
			c := &config{child: child, written: slices.Clone(js)}
			if p, ok := child.(balancer.ConfigParser); ok {
				var err error
				if c.childConfig, err = p.ParseConfig(childJS); err != nil {
					return nil, fmt.Errorf("%s: childPolicy[%d].%s: %w", Name, i, name, err)
				}
			}
			return c, nil
		}
	}
	return nil, fmt.Errorf("%s: childPolicy: none is registered of %s", Name, strings.Join(unknown, ", "))
}

// ParseConfig implements [balancer.ConfigParser].
func (roundRobinBuilder) ParseConfig(json.RawMessage) (serviceconfig.LoadBalancingConfig, error) {
	backends.Expect()
	return nil, nil
}
