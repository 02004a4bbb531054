-- LuaJIT's path has no ?/init.lua: this makes `require "spec.support"` work from the root of the tree.
return require "spec.support.init"
