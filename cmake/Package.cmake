# A Debian package of what runs; see deploy/build-deb.sh. What it alone brings,
# below /etc, is not laid down by `cmake --install`.
file(READ "${CMAKE_SOURCE_DIR}/deploy/nearline.yaml" config)
string(REPLACE "data_dir: ./nearline-data" "data_dir: /var/lib/nearline/data"
  packaged "${config}")
if(packaged STREQUAL config)
  message(FATAL_ERROR "deploy/nearline.yaml has another data_dir than expected")
endif()
file(WRITE "${CMAKE_BINARY_DIR}/packaged/nearline.yaml" "${packaged}")
install(FILES "${CMAKE_BINARY_DIR}/packaged/nearline.yaml"
  DESTINATION /etc/nearline COMPONENT system EXCLUDE_FROM_ALL)
install(FILES deploy/systemd/nearline.service
  DESTINATION lib/systemd/system COMPONENT system EXCLUDE_FROM_ALL)
install(FILES deploy/systemd/nearline.sysusers.conf
  DESTINATION lib/sysusers.d RENAME nearline.conf COMPONENT system
  EXCLUDE_FROM_ALL)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME nearline)
set(CPACK_PACKAGE_VENDOR Nearline)
set(CPACK_PACKAGE_CONTACT "Nearline <nearline@example.com>")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
  OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE
  WORLD_READ WORLD_EXECUTE)
set(CPACK_COMPONENTS_ALL runtime system)
set(CPACK_COMPONENTS_GROUPING ALL_COMPONENTS_IN_ONE)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION net)
set(CPACK_DEBIAN_PACKAGE_HOMEPAGE "https://github.com/nearline/nearline")
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
# LibTorch is a hundred times slower on the reference BLAS that it depends on.
set(CPACK_DEBIAN_PACKAGE_DEPENDS "libopenblas0-pthread, passwd")
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS ca-certificates)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA
  "${CMAKE_SOURCE_DIR}/deploy/debian/postinst"
  "${CMAKE_SOURCE_DIR}/deploy/debian/prerm"
  "${CMAKE_SOURCE_DIR}/deploy/debian/conffiles")
include(CPack)
