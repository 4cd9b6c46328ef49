package repository_test

import (
	"testing"

	"github.com/rego-go/rego/internal/storagetest"
	"github.com/rego-go/rego/policy/repository"
)

func TestMemory(t *testing.T) {
	storagetest.Test(t, func(*testing.T) repository.Storage { return repository.Memory() })
}
