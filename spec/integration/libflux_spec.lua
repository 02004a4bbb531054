local support = require "spec.support"

-- What a sanitized libflux.a asks of its user's link.
local function sanitizers(archive)
    local _, code = support.shell("nm " .. support.quote(archive) .. " | grep -q __asan_init")
    return code == 0 and "-fsanitize=address,undefined" or ""
end

describe("the installed libflux", function()
    after_each(support.finish)

    it("links by pkg-config, beside names that its own rooms use, and shows only flux_ itself", function()
        local build, prefix = support.flux:match("^(.*)/"), support.dir() .. "/installed"
        local log, code = support.shell(("DESTDIR= cmake --install %s --component flux --prefix %s"):format(build, prefix))
        assert.equal(0, code, log)
        local archive = support.shell("find " .. prefix .. " -name libflux.a"):match("^[^\n]+")
        local symbols = support.shell("nm -g --defined-only " .. archive .. " | awk 'NF == 3 { print $3 }' | grep -v ^flux_")
        assert.equal("", (symbols:gsub("%s", "")))
        -- a name that core/base has too
        local clash = support.file("clash.c", "int arena_alloc(void); int arena_alloc(void) { return 1; }\n")
        local program = support.dir() .. "/backend"
        for _, flags in ipairs { "--static", "" } do
            log, code = support.shell(([[PKG_CONFIG_PATH=%s; export PKG_CONFIG_PATH
                cc %s -Wall -Werror -o %s examples/backend.c %s $(pkg-config --cflags --libs %s flux)]])
                :format(archive:match("^(.*)/") .. "/pkgconfig", sanitizers(archive), program, clash, flags))
            assert.same({ 0, "" }, { code, log })
        end

        local registry, port = support.fake_registry(), support.free_port()
        local backend = support.run { name = "backend", argv = { program },
            env = { SERVICE_NAME = "users", PORT = port, HOSTNAME = "127.0.0.1", REGISTRY_URL = registry.url } }
        support.wait_until("it is registered", function() return registry:ids()[1] == "users-127.0.0.1-" .. port end)
        backend:signal("TERM")
        assert.equal(0, backend:wait())
        assert.same({}, registry:ids())
    end)

    it("has a header that C++ takes", function()
        local file = support.file("user.cc", '#include <flux.h>\nint main() { return flux_strerror(FLUX_OK) == nullptr; }\n')
        local log, code = support.shell("c++ -std=c++11 -Wall -Wextra -Werror -fsyntax-only -Iflux " .. file)
        assert.same({ 0, "" }, { code, log })
    end)
end)
