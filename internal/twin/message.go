package twin

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	testv1 "github.com/rego-go/rego/internal/testsrv/proto/rego/test/v1"
)

// note is a message of the codec that merges.
type note struct {
	Text string         `json:",omitempty"`
	Seen map[string]int `json:",omitempty"` // every text there was
}

// merging is a codec of JSON. It adds to what is in the message already, as
// encoding/json does.
type merging struct{}

func (merging) Name() string                       { return "json" }
func (merging) Marshal(m any) ([]byte, error)      { return json.Marshal(m) }
func (merging) Unmarshal(data []byte, m any) error { return json.Unmarshal(data, m) }

// newMessage returns an empty message, for requests and for replies.
func newMessage(merges bool) any {
	if merges {
		return new(note)
	}
	return new(testv1.ChatResponse)
}

func setText(m any, text string, size int) {
	switch m := m.(type) {
	case *note:
		m.Text = text + strings.Repeat(" ", size)
		m.Seen = map[string]int{text: 1}
	case *testv1.ChatResponse:
		m.Id = text
		m.Payload = make([]byte, size)
	}
}

// show describes a message without changing it.
func show(m any) string {
	switch m := m.(type) {
	case *note:
		return fmt.Sprintf("%s %v", strings.TrimSpace(m.Text), m.Seen)
	case *testv1.ChatResponse:
		return fmt.Sprintf("%s +%d", m.GetId(), len(m.GetPayload()))
	}
	return fmt.Sprintf("%v", m)
}

// encode returns a message on the wire.
func encode(text string, merges bool) []byte {
	m := newMessage(merges)
	setText(m, text, 0)
	var b []byte
	var err error
	if merges {
		b, err = json.Marshal(m)
	} else {
		b, err = proto.Marshal(m.(proto.Message))
	}
	if err != nil {
		panic(err)
	}
	return b
}

// describe is show for a message on the wire.
func describe(b []byte, merges bool) string {
	m := newMessage(merges)
	var err error
	if merges {
		err = json.Unmarshal(b, m)
	} else {
		err = proto.Unmarshal(b, m.(proto.Message))
	}
	if err != nil {
		return err.Error()
	}
	return show(m)
}

func encodeBin(b []byte) string { return base64.RawStdEncoding.EncodeToString(b) }
