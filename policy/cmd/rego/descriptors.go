package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/rego-go/rego/classify"
	"github.com/rego-go/rego/internal/nearest"
)

const (
	// maxDescriptors bounds a file of descriptors, in bytes.
	maxDescriptors = 256 << 20
	// mostAsked is how often it is asked what was meant, since that takes long where there are
	// many names.
	mostAsked = 20
)

// descriptors are the methods that exist, from files that protoc and buf write. Without any
// files nothing is known of methods.
type descriptors struct {
	paths []string

	methods  map[string]protoreflect.MethodDescriptor // "/pkg.Service/Method"
	services map[string][]string                      // their methods, sorted, by "/pkg.Service/"
	asked    int                                      // what was meant
}

// flags adds the flag --descriptors.
func (ds *descriptors) flags(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&ds.paths, "descriptors", nil,
		"`FILE` of descriptors, written by buf build -o FILE.binpb or protoc -o FILE; may be repeated")
}

// given reports whether it is known which methods exist.
func (ds *descriptors) given() bool { return len(ds.paths) > 0 }

// read reads the files.
func (ds *descriptors) read(in *input) error {
	if !ds.given() {
		return nil
	}
	all := new(descriptorpb.FileDescriptorSet)
	seen := make(map[string]bool)
	for _, path := range ds.paths {
		set, err := readDescriptors(in, path)
		if err != nil {
			return err
		}
		for _, f := range set.GetFile() { // what several import is in each
			if !seen[f.GetName()] {
				seen[f.GetName()] = true
				all.File = append(all.File, f)
			}
		}
	}
	// protoc leaves out what is imported unless told otherwise, and methods are all that counts.
	files, err := protodesc.FileOptions{AllowUnresolvable: true}.NewFiles(all)
	if err != nil {
		return fmt.Errorf("%s: descriptors that do not fit together: %w", strings.Join(ds.paths, ", "), err)
	}
	ds.methods, ds.services = make(map[string]protoreflect.MethodDescriptor), make(map[string][]string)
	files.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			ds.add(f.Services().Get(i))
		}
		return true
	})
	return nil
}

func readDescriptors(in *input, path string) (*descriptorpb.FileDescriptorSet, error) {
	data, err := in.open(path, maxDescriptors)
	if err != nil {
		return nil, err
	}
	set := new(descriptorpb.FileDescriptorSet)
	err = proto.Unmarshal(data, set)
	if err == nil && len(set.GetFile()) == 0 {
		err = errors.New("there is no file in it")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: is not a file of descriptors, as buf build -o FILE.binpb and protoc -o FILE write it: %w", path, err)
	}
	return set, nil
}

func (ds *descriptors) add(s protoreflect.ServiceDescriptor) {
	service := "/" + string(s.FullName()) + "/"
	for i := range s.Methods().Len() {
		m := s.Methods().Get(i)
		ds.methods[service+string(m.Name())] = m
		ds.services[service] = append(ds.services[service], service+string(m.Name()))
	}
	slices.Sort(ds.services[service])
}

// matching returns the methods that a selector is for.
func (ds *descriptors) matching(selector string) []string {
	service, all := strings.CutSuffix(selector, "*")
	switch {
	case all && service == "":
		return sortedKeys(ds.methods)
	case all:
		return ds.services[service]
	case ds.methods[selector] != nil:
		return []string{selector}
	}
	return nil
}

// meant returns which method, or every method of which service, is like a selector that
// matches nothing; empty if none is. It is asked a bounded number of times.
func (ds *descriptors) meant(selector string) string {
	if ds.asked++; ds.asked > mostAsked {
		return ""
	}
	if service, all := strings.CutSuffix(selector, "*"); all {
		if s := nearest.To(service, slices.Values(sortedKeys(ds.services))); s != "" {
			return s + "*"
		}
		return ""
	}
	return nearest.To(selector, slices.Values(sortedKeys(ds.methods)))
}

// idempotency returns what the proto file says of a method.
func (ds *descriptors) idempotency(method string) classify.Idempotency {
	if m := ds.methods[method]; m != nil {
		return classify.DeclaredIdempotencyOf(m)
	}
	return classify.IdempotencyUnknown
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func readAll(r io.Reader, most int64) ([]byte, error) { return io.ReadAll(io.LimitReader(r, most)) }
